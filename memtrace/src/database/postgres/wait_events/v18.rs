//! PostgreSQL 18. Checked against what 18.6 itself says (`pgstat_get_wait_event`, `GetBackendTypeDesc`).

use super::Names;

pub(super) const NAMES: Names = Names {
    backends: "not initialized, client backend, dead-end client backend, autovacuum launcher, autovacuum worker, \
        background worker, walsender, slotsync worker, standalone backend, archiver, background writer, \
        checkpointer, io worker, startup, walreceiver, walsummarizer, walwriter, logger",
    lwlock: "- ShmemIndex OidGen XidGen ProcArray SInvalRead SInvalWrite WALBufMapping WALWrite ControlFile - - - \
        MultiXactGen - - RelCacheInit CheckpointerComm TwoPhaseState TablespaceCreate BtreeVacuum AddinShmemInit \
        Autovacuum AutovacuumSchedule SyncScan RelationMapping - NotifyQueue SerializableXactHash \
        SerializableFinishedList SerializablePredicateList - SyncRep BackgroundWorker DynamicSharedMemoryControl \
        AutoFile ReplicationSlotAllocation ReplicationSlotControl - CommitTs ReplicationOrigin \
        MultiXactTruncation - LogicalRepWorker XactTruncation - WrapLimitsVacuum NotifyQueueTail WaitEventCustom \
        WALSummarizer DSMRegistry InjectionPoint SerialControl AioWorkerSubmissionQueue XactBuffer CommitTsBuffer \
        SubtransBuffer MultiXactOffsetBuffer MultiXactMemberBuffer NotifyBuffer SerialBuffer WALInsert \
        BufferContent ReplicationOriginState ReplicationSlotIO LockFastPath BufferMapping LockManager \
        PredicateLockManager ParallelHashJoin ParallelBtreeScan ParallelQueryDSA PerSessionDSA \
        PerSessionRecordType PerSessionRecordTypmod SharedTupleStore SharedTidBitmap ParallelAppend \
        PerXactPredicateList PgStatsDSA PgStatsHash PgStatsData LogicalRepLauncherDSA LogicalRepLauncherHash \
        DSMRegistryDSA DSMRegistryHash CommitTsSLRU MultiXactMemberSLRU MultiXactOffsetSLRU NotifySLRU SerialSLRU \
        SubtransSLRU XactSLRU ParallelVacuumDSA AioUringCompletion",
    lock: "relation extend frozenid page tuple transactionid virtualxid spectoken object userlock advisory \
        applytransaction",
    buffer_pin: "BufferPin",
    activity: "ArchiverMain AutovacuumMain BgwriterHibernate BgwriterMain CheckpointerMain CheckpointerShutdown \
        IoWorkerMain LogicalApplyMain LogicalLauncherMain LogicalParallelApplyMain RecoveryWalStream \
        ReplicationSlotsyncMain ReplicationSlotsyncShutdown SysloggerMain WalReceiverMain WalSenderMain \
        WalSummarizerWal WalWriterMain",
    client: "ClientRead ClientWrite GssOpenServer LibpqwalreceiverConnect LibpqwalreceiverReceive SslOpenServer \
        WaitForStandbyConfirmation WalSenderWaitForWal WalSenderWriteData",
    extension: "Extension",
    ipc: "AppendReady ArchiveCleanupCommand ArchiveCommand BackendTermination BackupWaitWalArchive BgworkerShutdown \
        BgworkerStartup BtreePage BufferIo CheckpointDelayComplete CheckpointDelayStart CheckpointDone \
        CheckpointStart ExecuteGather HashBatchAllocate HashBatchElect HashBatchLoad HashBuildAllocate \
        HashBuildElect HashBuildHashInner HashBuildHashOuter HashGrowBatchesDecide HashGrowBatchesElect \
        HashGrowBatchesFinish HashGrowBatchesReallocate HashGrowBatchesRepartition HashGrowBucketsElect \
        HashGrowBucketsReallocate HashGrowBucketsReinsert LogicalApplySendData LogicalParallelApplyStateChange \
        LogicalSyncData LogicalSyncStateChange MessageQueueInternal MessageQueuePutMessage MessageQueueReceive \
        MessageQueueSend MultixactCreation ParallelBitmapScan ParallelCreateIndexScan ParallelFinish \
        ProcarrayGroupUpdate ProcSignalBarrier Promote RecoveryConflictSnapshot RecoveryConflictTablespace \
        RecoveryEndCommand RecoveryPause ReplicationOriginDrop ReplicationSlotDrop RestoreCommand SafeSnapshot \
        SyncRep WalReceiverExit WalReceiverWaitStart WalSummaryReady XactGroupUpdate WalReceiverUpstreamCatchup",
    timeout: "BaseBackupThrottle CheckpointWriteDelay PgSleep RecoveryApplyDelay RecoveryRetrieveRetryInterval \
        RegisterSyncRequest SpinDelay VacuumDelay VacuumTruncate WalSummarizerError",
    io: "AioIoCompletion AioIoUringExecution AioIoUringSubmit BasebackupRead BasebackupSync BasebackupWrite \
        BuffileRead BuffileTruncate BuffileWrite ControlFileRead ControlFileSync ControlFileSyncUpdate \
        ControlFileWrite ControlFileWriteUpdate CopyFileCopy CopyFileRead CopyFileWrite DataFileExtend \
        DataFileFlush DataFileImmediateSync DataFilePrefetch DataFileRead DataFileSync DataFileTruncate \
        DataFileWrite DsmAllocate DsmFillZeroWrite LockFileAddtodatadirRead LockFileAddtodatadirSync \
        LockFileAddtodatadirWrite LockFileCreateRead LockFileCreateSync LockFileCreateWrite \
        LockFileRecheckdatadirRead LogicalRewriteCheckpointSync LogicalRewriteMappingSync \
        LogicalRewriteMappingWrite LogicalRewriteSync LogicalRewriteTruncate LogicalRewriteWrite RelationMapRead \
        RelationMapReplace RelationMapWrite ReorderBufferRead ReorderBufferWrite ReorderLogicalMappingRead \
        ReplicationSlotRead ReplicationSlotRestoreSync ReplicationSlotSync ReplicationSlotWrite SlruFlushSync \
        SlruRead SlruSync SlruWrite SnapbuildRead SnapbuildSync SnapbuildWrite TimelineHistoryFileSync \
        TimelineHistoryFileWrite TimelineHistoryRead TimelineHistorySync TimelineHistoryWrite TwophaseFileRead \
        TwophaseFileSync TwophaseFileWrite VersionFileSync VersionFileWrite WalsenderTimelineHistoryRead \
        WalBootstrapSync WalBootstrapWrite WalCopyRead WalCopySync WalCopyWrite WalInitSync WalInitWrite WalRead \
        WalSummaryRead WalSummaryWrite WalSync WalSyncMethodAssign WalWrite",
};
